"""The ARM64 lane: the real ARM64 ONNX Runtime on a desktop.

On an ARM64 machine the installed runtime is the lane. On x86-64 Linux the ARM64 wheels run under QEMU's
user-mode emulation, inside a cache folder that `edgeq doctor --setup arm64` fills:

    cores.py          the emulated cores, as data
    lane.py           the cache folder: where it is, what state it is in, its lock and its journal
    clients.py        the system's package clients (apt-get, dpkg-deb, pip)
    downloads.py      what the lane is made of, fetched by name and checked
    unpack.py         Debian packages and wheels, unpacked without installing them
    lane_root.py      the folder tree the emulated program sees, with an ARM /proc and /sys
    lane_setup.py     all of it in order, resumable
    selftest.py       one exact integer product per core
    executor.py       runs a model in the lane
    runner_script.py  the program that runs inside the emulated Python
"""
