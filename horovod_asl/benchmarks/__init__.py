"""What `horovod-asl benchmark` measures: both sides of every ratio as processes of their own, taken in turns."""
