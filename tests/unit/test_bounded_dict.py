"""A bounded dictionary evicts its oldest key."""

from receiver.domain.bounded_dict import BoundedDict


def test_the_oldest_key_is_evicted() -> None:
    numbers: BoundedDict[str, int] = BoundedDict(2)

    for number, name in enumerate(("a", "b", "c")):
        numbers[name] = number

    assert dict(numbers) == {"b": 1, "c": 2}


def test_setting_a_key_again_neither_evicts_nor_renews() -> None:
    numbers: BoundedDict[str, int] = BoundedDict(2)
    numbers["a"], numbers["b"] = 1, 2

    numbers["a"] = 3
    numbers["c"] = 4

    assert dict(numbers) == {"b": 2, "c": 4}


def test_setdefault_respects_the_bound() -> None:
    lists: BoundedDict[int, list[int]] = BoundedDict(3)

    for number in range(9):
        lists.setdefault(number, []).append(number)

    assert list(lists) == [6, 7, 8]
    assert lists.pop(7) == [7]
    assert 7 not in lists
