"""How fast, and at what price: settings side by side on one model (`bench`), and the search for the best (`tune`).

    candidates named sampler settings, from a file, from words or from the grid of caches and rules
    shapes     models to measure: the tiny one, and random weights of middle and full size
    batches    what is asked: questions with answers, or random prompts of a fixed length
    memory     memory that is free, and the peak of one answer
    floor      what the machine can do, what an answer asks of it, and the time that takes at least
    accuracy   shares of right answers and their differences, with intervals
    bench      the rounds and the table
    tune       the search
    measure    a device in some minutes, part by part: the above, and learning, profiling, clients of the engine
    host       what the sampling loop costs without the model

Settings are data: only the names of the fields of `SamplerConfig` and `model.generate` are known here.
"""
