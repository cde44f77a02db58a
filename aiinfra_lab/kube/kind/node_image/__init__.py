"""The node image of kind, made on this machine: no image has to be pulled for a cluster.

Programs are compiled from the two manifests below ``cluster``; the system is Debian's; the script
``cluster/kind/node/build.sh`` puts them together. The image's tag has a key over all of that.
"""
