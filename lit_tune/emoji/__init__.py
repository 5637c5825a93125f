"""The quick start's real data: emoji drawings of six vendors with their CLDR names and keywords.

`pack/` holds the data and its licences, `shards` writes it as webdataset shards, `check` proves that no test
picture and no held-out concept is trained on, `build` rebuilds the pack from public npm packages.
"""
