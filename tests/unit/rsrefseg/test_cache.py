import threading

import torch

from rsrefseg.cache import FeatureCache
from rsrefseg.features import ImageFeatures


def features(number=0, images=1):
    return ImageFeatures.of(torch.full((images, 2, 4, 4), float(number)), torch.full((images, 8, 2, 2), float(number)))


SIZE = 2 * 32 * 4


def test_what_was_put_is_found_and_counted():
    cache = FeatureCache(10 * SIZE)
    assert cache.get("a") is None
    cache.put("a", features())
    assert cache.get("a") is not None
    use = cache.use
    assert (use.hits, use.misses, use.images, use.bytes, use.limit_bytes) == (1, 1, 1, SIZE, 10 * SIZE)


def test_what_nobody_asked_for_the_longest_goes_first():
    cache = FeatureCache(2 * SIZE)
    cache.put("a", features())
    cache.put("b", features())
    cache.get("a")
    cache.put("c", features())
    assert [cache.get(key) is not None for key in "abc"] == [True, False, True]
    assert cache.use.bytes == 2 * SIZE


def test_putting_twice_counts_once():
    cache = FeatureCache(2 * SIZE)
    cache.put("a", features(1))
    cache.put("a", features(2))
    assert cache.use.bytes == SIZE
    assert cache.get("a").sam[0, 0, 0, 0] == 2


def test_what_is_larger_than_the_cache_drives_nothing_out():
    cache = FeatureCache(2 * SIZE)
    cache.put("a", features())
    cache.put("b", features(images=3))
    assert cache.use.images == 1
    assert cache.get("b") is None


def test_a_part_of_a_batch_counts_as_the_batch_it_keeps_alive():
    cache = FeatureCache(10 * SIZE)
    cache.put("a", ImageFeatures(*(part[:1] for part in features(images=4))))
    assert cache.use.bytes == 4 * SIZE


def test_threads_may_share_it():
    cache = FeatureCache(3 * SIZE)

    def work():
        for number in range(500):
            key = number % 7
            if cache.get(key) is None:
                cache.put(key, features())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    use = cache.use
    assert use.hits + use.misses == 2000
    assert (use.images, use.bytes) == (3, 3 * SIZE)
