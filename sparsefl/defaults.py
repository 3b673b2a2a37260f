"""Defaults that package and command line share, without torch, so that ``--help`` is quick."""

MODEL = "cnn"
CLIENTS = 10
PARTITION = "dirichlet:0.5"
ROUNDS = 10
DENSITY = 0.1
BATCH_SIZE = 32
LOCAL_EPOCHS = 1
# Of a profile: with the imports of a fresh process, within half a minute.
PROFILE_S = 23.0
# Of `sparsefl profile --crossover`.
DENSITIES = (0.01, 0.05, 0.1, 0.2, 0.5)
