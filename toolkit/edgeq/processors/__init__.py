"""From samples to a model's inputs, one file per kind of sample; without torch, for a processor travels in the bundle.

`base.py` says what each offers. Names of inputs are known here and in the exporters only: the rest of edgeq goes by
roles, axes and padding.
"""
