import pytest

from zoo.models.parts.sizes import divisor, level_strides, same_sizes, valid_sizes

TWO = (2, 2, 2)


def refusal(sizes, shape):
    with pytest.raises(ValueError) as caught:
        sizes.check(shape)
    return str(caught.value)


def test_the_refusal_says_what_would_be_right_and_what_to_do():
    assert refusal(same_sizes("unet3d", [TWO] * 3), (17, 16, 16)) == (
        "unet3d with 4 levels halves each axis three times: every size must be a multiple of 8, got "
        '(17, 16, 16). Pad the volume or pass fewer "filters".'
    )


def test_the_refusal_names_anisotropic_steps():
    sizes = same_sizes("vnet", [(2, 2, 1), TWO])
    sizes.check((20, 24, 18))
    assert refusal(sizes, (20, 24, 17)).startswith(
        "vnet with 3 levels divides the axes by (4, 4, 2): every size must be a multiple of (4, 4, 2), got (20"
    )


def test_open_axes_pass():
    same_sizes("unet3d", [TWO]).check((None, 24, None))
    assert "got (None, 23, None)" in refusal(same_sizes("unet3d", [TWO]), (None, 23, None))


def through(size, strides, down, up, between=0):
    """Voxels that come out, None where a step meets an uneven split: the arithmetic done forwards."""
    for taken, stride in zip(down, strides, strict=False):
        size -= taken + between
        if size <= 0 or size % stride:
            return None
        size //= stride
    size -= down[-1]
    for taken, stride in zip(reversed(up), reversed(strides), strict=True):
        if size <= 0:
            return None
        size = size * stride - taken
    return size if size > 0 else None


@pytest.mark.parametrize(
    ("strides", "down", "up", "between"),
    [
        ([2, 2, 2], [4, 4, 4, 4], [4, 4, 4], 0),
        ([2, 3], [4, 6, 0], [2, 8], 0),
        ([2, 1, 2], [4, 2, 2, 2], [4, 4, 4], 2),
        ([2], [16, 12], [20], 0),
    ],
)
def test_valid_sizes_are_those_that_pass_forwards(strides, down, up, between):
    sizes = valid_sizes("net", [(stride,) * 3 for stride in strides], down, up, between)
    for size in range(1, 150):
        fits = through(size, strides, down, up, between) is not None
        assert fits == (size >= sizes.minimum[0] and (size - sizes.minimum[0]) % sizes.multiple[0] == 0)


def test_strides_are_one_entry_a_step():
    assert level_strides(None, 2) == (TWO, TWO)
    assert level_strides((3, (2, 2, 1)), 2) == ((3, 3, 3), (2, 2, 1))
    assert divisor(level_strides((3, (2, 2, 1)), 2)) == (6, 6, 3)
    with pytest.raises(ValueError, match='3 levels step down twice: "strides" needs 2 entries, got 1'):
        level_strides((2,), 2)
    with pytest.raises(ValueError, match=r'entry of "strides" is one positive int or three .* got \(2, 2\)\.'):
        level_strides(((2, 2), 2), 2)
