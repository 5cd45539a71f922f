"""What the server of processes imports, once for all of them (`child.start_server`)."""

import gc
from importlib import import_module

# The collector would look at what imports make again and again: it takes a fifth of their time.
gc.disable()
# The code of every model rests on the second, which takes seconds.
for _module in ("curate.pipeline.local_workers", "transformers.modeling_utils"):
    import_module(_module)
gc.freeze()
gc.enable()
