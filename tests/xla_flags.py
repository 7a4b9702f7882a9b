"""XLA's flags for tests on a CPU."""

import importlib.metadata

# Half of the time to compile, on JAX 0.10 a sixth. Programs run slower, which tiny models do not
# notice.
QUICK_TO_COMPILE = " --xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later versions have only MLIR's
    QUICK_TO_COMPILE += " --xla_cpu_use_fusion_emitters=false"
    QUICK_TO_COMPILE += " --xla_cpu_parallel_codegen_split_count=1"
