"""Does sparsity pay for this network: every layer and the whole local step, dense and sparse.

>>> import sparsefl
>>> profile = sparsefl.profile(model, (1, 28, 28), density=0.1, batch_size=32)
>>> print(profile.table())
>>> faster = sparsefl.sparsify(model, profile.masks)
"""

from sparsefl.profiling.crossover import Crossover, LayerCrossover, Point, profile_crossover
from sparsefl.profiling.memory import Memory
from sparsefl.profiling.profiler import profile
from sparsefl.profiling.result import Factor, LayerProfile, Parts, Profile, StepProfile

__all__ = [
    "Crossover",
    "Factor",
    "LayerCrossover",
    "LayerProfile",
    "Memory",
    "Parts",
    "Point",
    "Profile",
    "StepProfile",
    "profile",
    "profile_crossover",
]
