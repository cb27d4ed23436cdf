"""Every way in which multiprocessing starts processes, and what they share."""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import shared_memory


def square(number):
    return number * number


def count(counter, lock, times):
    for _ in range(times):
        with lock:
            counter.value += 1


def fill(name, value):
    block = shared_memory.SharedMemory(name=name)
    block.buf[:] = bytes([value]) * len(block.buf)
    block.close()


def main(method):
    context = multiprocessing.get_context(method)
    with context.Pool(4) as pool:
        assert sum(pool.map(square, range(1000))) == 332_833_500

    counter, lock = context.Value("i", 0, lock=False), context.Lock()
    workers = [context.Process(target=count, args=(counter, lock, 200)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert counter.value == 600

    block = shared_memory.SharedMemory(create=True, size=1 << 20)
    worker = context.Process(target=fill, args=(block.name, 7))
    worker.start()
    worker.join()
    assert bytes(block.buf[: 1 << 20]) == b"\x07" * (1 << 20)
    block.close()
    block.unlink()

    with context.Manager() as manager:
        shared = manager.dict()
        worker = context.Process(target=shared.update, args=({"key": "value"},))
        worker.start()
        worker.join()
        assert shared["key"] == "value"

    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(square, [3, 4])) == [9, 16]
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(square, range(100))) == 328_350
    print(method, "unbroken")


if __name__ == "__main__":
    main(sys.argv[1])
