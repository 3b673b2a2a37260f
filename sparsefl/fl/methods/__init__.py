"""The federated methods, one file each; every module offers its ``METHOD``."""
