"""HideNseek's options: defaults, where these come from, and what is out of range."""

from collections.abc import Mapping
from typing import Any

from sparsefl.fl import learning_rate as rates
from sparsefl.fl.methods._hidenseek_downlink import SCORE_DELTAS, SCORE_FORMATS, check_deltas
from sparsefl.fl.methods._hidenseek_rules import RULES, check_options
from sparsefl.fl.options import check_at_least, check_positive
from sparsefl.structure import parse

# On the development set (Fashion-MNIST, cnn, density 0.1, 30 rounds of 12 steps of batch 16, one
# seed, means of the last four rounds; one seed is good to about .01):
#
#                                        10 clients       10 clients       100 clients, 10 a round
#                                        Dirichlet 0.5    Dirichlet 0.1    Dirichlet 0.5
#     linear, FedAvg                     .813             .815             .800
#     dense FedAvg, lr 0.05              .845             .816             .807
#     all layers signed, no biases       .778
#     outer layers dense, Adam on them   .833             .718
#       the same, fp32 scores averaged   .840
#       with SGD 0.05 instead of Adam    .837             .787             .806
#       with lr 0.02, SGD 0.04, cosine   .826             .818             .816   <- the default
#
# So one bit costs a point, signs in the outer layers five, and what skew costs is drift that the
# rates must anneal. Little skew wants lr 0.01 and dense_lr 0.05 with lr_decay 0.97. The middle row
# of the default travelled down as float32, the others in bfloat16 (dense parameters, up) and int8.
# Rejected: the loss calibrated by each client's label histogram (Dirichlet 0.1: .638), scores that
# start uniform instead of normal (.828, too many flips in the first rounds), score_format int4
# (.825 where float32 has .837 and int8 .836). At Dirichlet 0.1 lr 0.01 with dense_lr 0.05 and the
# cosine is as good, .819. The engine itself ends at .831 with these defaults at Dirichlet 0.5.
#
# What a client is sent down (kB a round from the second on, dense layers included), Dirichlet 0.5,
# 8 rounds of 12 steps of batch 16, 10 clients a round, one seed; accuracy after the last, and of
# the scores that clients then hold how many have another sign than the server's:
#
#     score_format, score_deltas    10 of 10 clients               10 of 100 clients
#     fp32                          391         .756
#     int8  <- the default          118         .755               118         .760
#     int4                           62         .757
#     int8, int8                    121         .750    .003 %
#     int8, int4                     59         .757    .02 %      111         .751
#     int8, ternary                  29         .756    .18 %      108         .758
#
# So where everyone takes part, ternary changes cost a quarter of int8 and half of int4, and no more
# accuracy than one seed is good to. Of 10 of 100 clients one in ten has the version before, nine in
# ten get the whole. Changes in int8 save nothing: its integers take as many bits at any scale.
DEFAULTS: Mapping[str, Any] = {
    "rule": "sign_update",
    "lr": 0.02,
    **rates.DEFAULTS,
    "lr_schedule": "cosine",
    "dense_lr": 0.04,
    "dense_momentum": 0.9,
    "dense_layers": "first,last",
    "score_std": 0.1,
    "score_format": "int8",
    "score_deltas": "none",
    "server_lr": 1.0,
    "tau": 0.02,
    "own_share": 0.5,
    "beta_prior": 1.0,
    "beta_decay": 0.0,
    "iterations": 100,
    "structure": "unstructured",
}
CHOICES: Mapping[str, tuple[str, ...]] = {
    **rates.CHOICES,
    "rule": tuple(RULES),
    "score_format": SCORE_FORMATS,
    "score_deltas": SCORE_DELTAS,
}


def check(options: Mapping[str, Any]) -> None:
    """Check all options but the patterns of layers, which need the model.

    Raises:
        ValueError: if one is out of range, or set though the rule does not read it.
    """
    check_at_least(options, {"lr": 0, "dense_lr": 0, "dense_momentum": 0, "iterations": 1})
    check_positive(options, "score_std")
    rates.check_options(options)
    parse(options["structure"])
    check_options(options, DEFAULTS)
    check_deltas(options)
