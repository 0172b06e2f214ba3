"""Names the classes that the configuration of a foreign model may ask for: those that only compute.

Other layers of Keras read files (a vocabulary, a SavedModel) or run code (a lambda, a pickled module), and whatever a
configuration names is built when it is loaded.
"""

import itertools
from collections.abc import Iterator
from typing import Any


def _with_axes(*names: str) -> frozenset[str]:
    return frozenset(f"{name}{axes}D" for name in names for axes in (1, 2, 3))


def _split_words(*lines: str) -> frozenset[str]:
    return frozenset(itertools.chain.from_iterable(line.split() for line in lines))


LAYERS = _with_axes(
    *("AdaptiveAveragePooling", "AdaptiveMaxPooling", "AveragePooling", "MaxPooling", "GlobalAveragePooling"),
    *("Conv", "ConvLSTM", "Cropping", "GlobalMaxPooling", "SpatialDropout", "UpSampling", "ZeroPadding"),
) | _split_words(
    "Activation ActivityRegularization Add AdditiveAttention AlphaDropout Attention Average BatchNormalization",
    "Bidirectional CenterCrop Concatenate Conv1DTranspose Conv2DTranspose Conv3DTranspose Dense DepthwiseConv1D",
    "DepthwiseConv2D Dot Dropout ELU EinsumDense Embedding Flatten GRU GRUCell GaussianDropout GaussianNoise",
    "GroupNormalization Identity InputLayer LSTM LSTMCell LayerNormalization LeakyReLU Masking Maximum Minimum",
    "MultiHeadAttention Multiply Normalization PReLU Permute RNN ReLU RepeatVector Rescaling Reshape Resizing",
    "SeparableConv1D SeparableConv2D SimpleRNN SimpleRNNCell Softmax SpectralNormalization StackedRNNCells Subtract",
    "TimeDistributed UnitNormalization",
)
_PARTS = _split_words(  # initialisers, regularisers, constraints and policies, of which a layer's configuration is made
    "Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity L1 L1L2 L2 LecunNormal LecunUniform MaxNorm",
    "MinMaxNorm NonNeg Ones Orthogonal OrthogonalRegularizer Policy RandomNormal RandomUniform TensorShape",
    "TruncatedNormal UnitNorm VarianceScaling Zeros function",
)


def forbidden_classes(config: Any) -> list[str]:
    """Lists the classes below a layer's configuration that only an unsafe loader would build.

    Args:
        config: plain data, as a file has it; the class of the layer itself is not looked at.

    Example:
        >>> forbidden_classes({"kernel_initializer": {"class_name": "StringLookup", "config": {}}})
        ['StringLookup']
    """
    names = (str(value["class_name"]) for value in _find_dictionaries(config) if "class_name" in value)
    plain = {name: name.rpartition(">")[2] for name in names}
    return sorted(name for name, bare in plain.items() if bare not in LAYERS | _PARTS | {"WeightNormalization"})


def _find_dictionaries(value: Any) -> Iterator[dict]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _find_dictionaries(item)
