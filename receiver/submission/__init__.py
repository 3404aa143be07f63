"""Submit tasks to Kling: store the intent, call Kling, bind its id."""
