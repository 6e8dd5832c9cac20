"""The commands of `horovod-asl`: each module's docstring is its manual, and its `main()` a table of contents."""
