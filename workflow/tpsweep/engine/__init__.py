"""Everything that talks to vLLM, its processes and the driver."""
