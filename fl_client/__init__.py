"""What runs at a site: reading its folder, fingerprinting, the release gate, local training.

Images and features never leave this room; counts do, after the release gate. The deep-learning
framework is imported inside the modules that need it, so that the command line starts quickly.
"""
