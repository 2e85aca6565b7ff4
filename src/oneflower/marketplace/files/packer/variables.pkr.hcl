variable "appliance_name" {
  type    = string
  default = "@APP@"
}

variable "input_dir" {
  type = string
}

variable "output_dir" {
  type = string
}

variable "headless" {
  type    = bool
  default = false
}

variable "version" {
  type    = string
  default = ""
}

# The base: Debian 12 with one-context, as one-apps exports it.
variable "base_image" {
  type    = string
  default = "../one-apps/export/debian12.qcow2"
}
