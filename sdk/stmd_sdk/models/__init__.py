"""Models as plain values: the spec, model files, what an exported file says of itself; and the bundled weights.

May import inference, mixtures, codecs, networks, diffusion and the root modules. To bundle a model: put its
.safetensors here, with a card of the same name beside it.
"""
