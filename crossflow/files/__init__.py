"""Strict readers and atomic writers of tensors, images, arrays and pretrained folders; both packages use them."""
