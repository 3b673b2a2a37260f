"""Federated learning in one process, with real messages: methods, engine, ledger.

result = sparsefl.fl.run("hidenseek", model=MyNet, clients=[(train, dev), ...], test=test,
                         density=0.1, rounds=50, seed=0)
print(result.table())
"""

from sparsefl.fl import logs
from sparsefl.fl.costs import Costs
from sparsefl.fl.engine import Federation
from sparsefl.fl.exchange import Exchange
from sparsefl.fl.ledger import Ledger, Round
from sparsefl.fl.method import Client, Method, Task, Wire, load_method
from sparsefl.fl.result import Result
from sparsefl.fl.runner import Description, run
from sparsefl.fl.schedule import Schedule
from sparsefl.fl.seeds import SeedResults, Spread, run_seeds
from sparsefl.names import METHODS

__all__ = [
    "METHODS",
    "Client",
    "Costs",
    "Description",
    "Exchange",
    "Federation",
    "Ledger",
    "Method",
    "Result",
    "Round",
    "Schedule",
    "SeedResults",
    "Spread",
    "Task",
    "Wire",
    "load_method",
    "logs",
    "run",
    "run_seeds",
]
