"""PURE: from pairs to columns of numbers, by `comparer`.

`presets` and `extraction` turn captured bytes into what a route's expressions find; `structure` and `lists` hold the
two sides' documents and rankings against each other; `families` say what that comes to, a file each; `inspecting`
looks at a single sample, for whoever writes a configuration.
"""
