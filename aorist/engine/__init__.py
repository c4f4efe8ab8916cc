"""What makes views true: shards that fold, checkpoints, restore, ownership. Knows ports and declarations, no server and no adapter."""
