"""The version, where every module may read it: `edgeq` itself imports the verbs, and they the rest."""

__version__ = "0.1.0"
