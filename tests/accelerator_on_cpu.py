"""`python -m ad_hf` on a machine that Accelerate takes for one with GPUs: gloo in place of NCCL.

Accelerate runs neither FSDP nor DeepSpeed on a CPU, though both of them can. So what differs from a machine with
GPUs is one method, and the configurations, Accelerate's own part and ours are those of users.
"""

import os

os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"

from accelerate.state import DistributedType, PartialState

PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)

from ad_hf.cli import main

main()
