"""One file per pass; sequences of them are explicit, in targets and exporters.

A pass is a function that edits a model in place and says whether it did, marked with `in_place`: calling it with
its settings makes a pass of `onnx_ir`. `edited` runs passes on a clone, `run_passes` on the model itself.
"""
