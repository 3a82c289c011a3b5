"""The paper: schedule and bridge, noise, targets, posteriors, and the loop over them.

Imports the root modules alone. To add a schedule, a target or a posterior: a final class in a file of its own that
implements the protocol of the same name; CONTRIBUTING.md lists the files to touch.
"""
