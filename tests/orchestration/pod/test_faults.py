"""Which errors are a GPU's own: words of CUDA's, cuDNN's and NCCL's."""

import pytest

from orchestration.pod.faults import is_fault


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: unspecified launch failure",
        "CUDA error: an illegal memory access was encountered",
        "No CUDA-capable device is detected",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`",
        "NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
        "NCCL error in: NCCLUtils.cpp:94, unhandled system error (run with NCCL_DEBUG=INFO), NCCL version 2.27",
    ],
)
def test_what_a_broken_gpu_says_is_a_fault_of_its_node(said: str) -> None:
    assert is_fault(RuntimeError(said))


@pytest.mark.parametrize(
    "said",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB",
        "CUDA error: device-side assert triggered",
        "CUDA error: invalid argument",
        "CUDA error: no kernel image is available for execution on the device",
        "NCCL error in: ProcessGroupNCCL.cpp:2, remote process exited or there was a network error",
        "[/src/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.1]:4000",
        "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    ],
)
def test_a_mistake_or_a_lost_peer_is_none(said: str) -> None:
    assert not is_fault(RuntimeError(said))
    assert not is_fault(KeyError("CUDA error"))
