"""Overrides that make the config of a masked autoencoder small, for tests of several parts."""

MAE = {
    "model.patch_size": 8,
    "model.width": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.decoder_width": 8,
    "model.decoder_depth": 1,
    "model.decoder_num_heads": 1,
    "image_size": 16,
    "mesh.devices": 1,
    "batch_size": 100,
    "total_steps": 2,
    "schedule.warmup_epochs": "none",
}
