"""What training adds to the flow loss, with the networks that only training needs."""
