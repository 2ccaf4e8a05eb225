"""Names of the adapter architectures, for settings and help, without importing torch."""

from typing import Literal, get_args

AdapterKind = Literal["linear", "mlp", "bottleneck", "identity"]
ADAPTER_KINDS: tuple[str, ...] = get_args(AdapterKind)
