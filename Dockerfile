# docker build --target cpu -t ad-hf .
# docker run --rm -v "$PWD/runs:/home/ad/runs" ad-hf --help
#
# For an NVIDIA GPU build the target cuda and add --gpus all. User 1000 has to be able to write to runs/.

FROM python:3.12.12-slim-bookworm AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY cards cards
COPY ad_hf ad_hf
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM pytorch/pytorch:2.9.1-cuda12.8-cudnn9-runtime AS cuda
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir /wheels/*.whl && useradd --create-home --uid 1000 ad
USER ad
WORKDIR /home/ad
ENTRYPOINT ["ad-hf"]

FROM python:3.12.12-slim-bookworm AS cpu
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu /wheels/*.whl \
    && useradd --create-home --uid 1000 ad
USER ad
WORKDIR /home/ad
ENTRYPOINT ["ad-hf"]
