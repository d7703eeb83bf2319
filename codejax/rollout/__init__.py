"""Tasks put to a model turn by turn, judged while others are generated: asks in, episodes out."""
# SPDX-License-Identifier: Apache-2.0
