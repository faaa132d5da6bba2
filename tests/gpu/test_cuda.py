"""One suite for device memory, on cuda-bindings and on PyCUDA.

It runs on a GPU; and for cuda-bindings on tests/fake_libcuda.c too, see tests/engines/test_cuda.py.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec

import numpy as np
import pytest

from edgeseg.engines.cuda import Device, DeviceArray, open_device
from edgeseg.errors import EngineError

pytestmark = pytest.mark.gpu
MODULES = {"cuda-bindings": "cuda", "pycuda": "pycuda"}
NBYTES = 1 << 20


@pytest.fixture(params=MODULES)
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    if find_spec(MODULES[request.param]) is None:
        pytest.skip(f"needs {request.param}")
    device = open_device(request.param)
    yield device
    device.close()


def ramp(first: int) -> np.ndarray:
    return (np.arange(NBYTES) + first).astype(np.uint8)


def test_the_device_says_what_it_is(device: Device) -> None:
    major, minor = device.capability
    assert device.name.isprintable() and device.name == device.name.strip() != ""
    assert device.target == f"sm{major}{minor}"
    assert major >= 5
    assert isinstance(device.integrated, bool)


def test_pixels_go_there_and_back(device: Device) -> None:
    with device.current():
        there, back = device.host(NBYTES), device.host(NBYTES)
        assert there.array.shape == (NBYTES,) and there.array.flags.writeable
        assert not there.array.any() and not there.address
        pointer, stream = device.allocate(NBYTES), device.stream()
        there.array[:] = ramp(3)
        device.upload(pointer, there, stream)
        device.download(back, pointer, stream)
        stream.synchronize()
    np.testing.assert_array_equal(back.array, ramp(3))


def test_an_event_is_passed_when_what_lies_before_it_is_done(device: Device) -> None:
    with device.current():
        there, back = device.host(NBYTES), device.host(NBYTES)
        pointer, stream, copied = device.allocate(NBYTES), device.stream(), device.event()
        there.array[:] = 5
        device.upload(pointer, there, stream)
        copied.record(stream)
        copied.synchronize()
        there.array[:] = 6  # too late for the copy
        device.download(back, pointer, stream)
        copied.record(stream)
        copied.synchronize()
    assert (back.array == 5).all()


def test_mapped_memory_has_an_address_on_the_device(device: Device) -> None:
    with device.current():
        mapped, back = device.host(NBYTES, mapped=True), device.host(NBYTES)
        stream = device.stream()
        mapped.array[:] = ramp(1)
        device.download(back, mapped.address, stream)
        stream.synchronize()
        np.testing.assert_array_equal(back.array, ramp(1))
        back.array[:] = ramp(2)
        device.upload(mapped.address, back, stream)
        stream.synchronize()
    np.testing.assert_array_equal(mapped.array, ramp(2))


def test_a_graph_does_its_work_again_with_new_pixels(device: Device) -> None:
    with device.current():
        there, back = device.host(NBYTES), device.host(NBYTES)
        pointer, stream = device.allocate(NBYTES), device.stream()

        def work() -> None:
            device.upload(pointer, there, stream)
            device.download(back, pointer, stream)

        graph = device.capture(stream, work)
        if graph is None:
            assert device.binding == "pycuda"
            return
        stream.synchronize()
        assert not back.array.any(), "capturing does nothing yet"
        for first in (1, 2, 3):
            there.array[:] = ramp(first)
            graph.launch(stream)
            stream.synchronize()
            np.testing.assert_array_equal(back.array, ramp(first))


def test_the_stream_is_usable_after_a_capture_that_failed(device: Device) -> None:
    def fail() -> None:
        raise KeyError("no")

    with device.current():
        stream = device.stream()
        if device.binding == "pycuda":
            assert device.capture(stream, fail) is None
            return
        with pytest.raises(KeyError):
            device.capture(stream, fail)
        with pytest.raises(EngineError, match=r"^got CUDA_\w+ from cuStreamSynchronize; wanted"):
            device.capture(stream, stream.synchronize)

        def hide() -> None:
            with suppress(EngineError):
                stream.synchronize()

        with pytest.raises(EngineError, match=r"^got CUDA_\w+ from cuStreamEndCapture; wanted"):
            device.capture(stream, hide)
        stream.synchronize()
        assert device.capture(stream, lambda: None) is not None


def test_host_memory_outlives_the_device(device: Device) -> None:
    with device.current():
        memory = device.host(NBYTES)
    view = memory.view((2, NBYTES // 8), np.float32)
    view[:] = 2.5
    del memory
    device.close()
    device.close()
    gc.collect()
    assert (view == 2.5).all()


def test_arrays_say_their_shape_to_other_libraries(device: Device) -> None:
    with device.current():
        array = device.array((3, 4), np.float32)
        said = array.__cuda_array_interface__
    assert said == {"shape": (3, 4), "typestr": "<f4", "data": (array.pointer, False), "version": 3}
    assert array.nbytes == 48 and array.pointer
    assert DeviceArray(0, (), np.int32).nbytes == 4


def test_any_thread_may_use_it(device: Device) -> None:
    with device.current():
        there, back = device.host(NBYTES), device.host(NBYTES)
        pointer, stream = device.allocate(NBYTES), device.stream()

    def work() -> None:
        with device.current():
            device.upload(pointer, there, stream)
            device.download(back, pointer, stream)
            stream.synchronize()

    there.array[:] = 9
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (back.array == 9).all()


def test_too_much_memory_is_one_sentence(device: Device) -> None:
    with pytest.raises(EngineError) as caught, device.current():
        device.allocate(1 << 46)
    assert str(caught.value).startswith("got ") and "\n" not in str(caught.value)
    with device.current():
        assert device.allocate(16)


def test_streams_have_handles(device: Device) -> None:
    with device.current():
        one, two = device.stream(), device.stream()
        assert one.handle and one.handle != two.handle
        assert isinstance(one.handle, int)


def test_a_gpu_that_is_not_here_is_one_sentence() -> None:
    if find_spec("cuda") is None:
        pytest.skip("needs cuda-bindings")
    with pytest.raises(EngineError, match=r"^got GPU 99 of \d+; wanted one that is here"):
        open_device("cuda-bindings", index=99)
