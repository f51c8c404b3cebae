"""`python -m ad_hf` on a machine that Accelerate takes for one with GPUs: gloo in place of NCCL.

Accelerate runs neither FSDP nor DeepSpeed on a CPU, though both of them can. So what differs from a machine
with GPUs is one method; the configurations, Accelerate's own part and ours are those of users.
"""

import os

from accelerate.state import DistributedType, PartialState

from ad_hf.cli import main

os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
main()
