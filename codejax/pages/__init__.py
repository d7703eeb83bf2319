"""What self-contained HTML pages are made of: elements, how figures are spelt, one style sheet."""
# SPDX-License-Identifier: Apache-2.0
