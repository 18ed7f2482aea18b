"""From pixels to views: preprocessing, policies of augmentation, transforms."""
