"""All that plays to make data: collecting, shipped behaviours, how they and the prey were made."""
