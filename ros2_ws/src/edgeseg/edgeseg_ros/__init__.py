"""edgeseg as a ROS 2 node: image topic or camera in, instance masks out."""
