"""Where the files of a cache lie: a disk, a bucket, the Hub."""
