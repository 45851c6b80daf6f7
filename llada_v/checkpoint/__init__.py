"""Checkpoints in every layout LLaDA-V comes in: names of weights, files, config fields, and a conversion that streams.

It knows names, shapes and config fields and computes nothing. Only safetensors and JSON are read: no pickle is opened
and no code named in a config (`auto_map`) is run.

    published LLaDA-V folder  ------------------------------------>  ours     (`from_pretrained` reads it directly, too)
    LLaDA-8B folder, either layout  +  SigLIP2 folder  + fresh projector and newline  ------>  ours
"""
