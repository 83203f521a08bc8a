"""Good pictures with random damage."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from testing.hostile.good import good_pictures
from testing.hostile.png import with_right_checksums


def mutations(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """`count` good pictures of all formats with random but reproducible damage."""
    chance = random.Random(seed)
    pictures = sorted(good_pictures().items())
    for number in range(count):
        name, data = chance.choice(pictures)
        for _ in range(chance.choice((1, 1, 2, 4))):
            data = chance.choice(SPOILERS)(data, chance)
        if name == "PNG" and chance.random() < 0.7:
            data = with_right_checksums(data)  # otherwise only the checksum would be tested
        yield f"{name}, seed {seed}, number {number}", data


def flip(data: bytes, chance: random.Random) -> bytes:
    spoiled = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        if spoiled:
            spoiled[position(data, chance)] ^= 1 << chance.randrange(8)
    return bytes(spoiled)


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: position(data, chance)]


def leave_out(data: bytes, chance: random.Random) -> bytes:
    start = position(data, chance)
    return data[:start] + data[start + chance.randint(1, 40) :]


def repeat(data: bytes, chance: random.Random) -> bytes:
    start = position(data, chance)
    block = data[start : start + chance.randint(1, 200)]
    return data[:start] + block * chance.randint(2, 20) + data[start:]


def splice(data: bytes, chance: random.Random) -> bytes:
    other = chance.choice(sorted(good_pictures().values()))
    return data[: position(data, chance)] + other[position(other, chance) :]


def overwrite(data: bytes, chance: random.Random) -> bytes:
    """Replace an integer by an extreme value, like sizes, counts and offsets in hostile files."""
    start, size = position(data, chance), chance.choice((1, 2, 4, 8))
    top = 1 << (8 * size)
    value = chance.choice((0, 1, top // 2 - 1, top // 2, top - 1, chance.randrange(top)))
    return (
        data[:start] + value.to_bytes(size, chance.choice(("big", "little"))) + data[start + size :]
    )


def position(data: bytes, chance: random.Random) -> int:
    """A random position, half of them in the header, which is most sensitive."""
    return chance.randrange(max(1, min(len(data), chance.choice((300, len(data))))))


SPOILERS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip, cut, leave_out, repeat, splice, overwrite, overwrite,
)  # fmt: skip
