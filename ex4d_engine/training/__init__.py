# SPDX-License-Identifier: GPL-3.0-or-later
"""How the weights that this project ships are made. Needs torch, numpy and safetensors, and nothing of the stages."""
