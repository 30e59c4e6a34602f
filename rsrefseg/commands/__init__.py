"""The commands of `rsrefseg`; a file for those that share a purpose. Each imports what it needs when it runs."""
