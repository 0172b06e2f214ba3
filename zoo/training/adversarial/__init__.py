"""Training against a critic, and what such networks are compared with: learners, each a Keras model with its own step.

A learner holds the parts of a `gan3d` network, trains them by its `train_step`, and leaves the network as it was built,
to be saved and loaded like any other. `zoo.training.fit` drives it where a task names it as `learner`.
"""

from zoo.training.adversarial.callbacks import CollapsedError, CollapseWatch, Montage
from zoo.training.adversarial.contextual import Balance, ContextualGan, Setting
from zoo.training.adversarial.encoders import AutoEncoder, GanEncoder
from zoo.training.adversarial.objectives import OBJECTIVES, gradient_penalty
from zoo.training.adversarial.plain import PlainGan

__all__ = [
    "OBJECTIVES",
    "AutoEncoder",
    "Balance",
    "CollapseWatch",
    "CollapsedError",
    "ContextualGan",
    "GanEncoder",
    "Montage",
    "PlainGan",
    "Setting",
    "gradient_penalty",
]
