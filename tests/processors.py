"""Kinds of processor: what to set so that this one computes as a smaller one does."""

AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
"""Environment of a process whose torch, oneDNN and MKL use no instruction beyond AVX2."""
