"""`openmae finetune`: an encoder learns from labels."""
