"""Devices and how tensors lie on them: the mesh, and the one table of sharding rules."""
# SPDX-License-Identifier: Apache-2.0
