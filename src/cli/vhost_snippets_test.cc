// SPDX-License-Identifier: Apache-2.0
#include "cli/vhost_snippets.h"

#include <gtest/gtest.h>

namespace holdfast {
namespace {

TEST(VhostSnippetsTest, QemuSharesItsMemoryAndReconnects) {
  EXPECT_EQ(qemu_snippet("/run/holdfast/vms.web.vhost.sock", "web"),
            "-m 4G -object memory-backend-memfd,id=memory,size=4G,share=on \\\n"
            "-machine memory-backend=memory \\\n"
            "-chardev socket,id=disk-web,path=/run/holdfast/vms.web.vhost.sock,reconnect=1 \\\n"
            "-device vhost-user-blk-pci,id=disk-web,chardev=disk-web,num-queues=4\n");
}

TEST(VhostSnippetsTest, AnOddPathSurvivesTheShellAndQemu) {
  const std::string text = qemu_snippet("/run/it's, odd/a.b.vhost.sock", "b");
  EXPECT_NE(
      text.find(
          "-chardev 'socket,id=disk-b,path=/run/it'\\''s,, odd/a.b.vhost.sock,reconnect=1' \\\n"),
      std::string::npos)
      << text;
}

TEST(VhostSnippetsTest, AnIdBeginsWithALetter) {
  EXPECT_NE(qemu_snippet("/s", "0").find("-device vhost-user-blk-pci,id=disk-0,chardev=disk-0,"),
            std::string::npos);
}

TEST(VhostSnippetsTest, LibvirtSharesMemoryAndReconnects) {
  EXPECT_EQ(libvirt_snippet("/run/holdfast/vms.web.vhost.sock"),
            "<memoryBacking>\n"
            "  <source type='memfd'/>\n"
            "  <access mode='shared'/>\n"
            "</memoryBacking>\n"
            "<devices>\n"
            "  <disk type='vhostuser' device='disk'>\n"
            "    <driver name='qemu' type='raw' queues='4'/>\n"
            "    <source type='unix' path='/run/holdfast/vms.web.vhost.sock'>\n"
            "      <reconnect enabled='yes' timeout='1'/>\n"
            "    </source>\n"
            "    <target dev='vda' bus='virtio'/>\n"
            "  </disk>\n"
            "</devices>\n");
}

TEST(VhostSnippetsTest, AnOddPathIsStillXml) {
  EXPECT_NE(libvirt_snippet("/a'&<b>\".sock").find("path='/a&apos;&amp;&lt;b&gt;&quot;.sock'>"),
            std::string::npos);
}

TEST(VhostSnippetsTest, TheFirstLineIsTheSocketAlone) {
  const std::string text = vhost_attach_text("/run/holdfast/vms.web.vhost.sock", "web");
  EXPECT_TRUE(text.starts_with("/run/holdfast/vms.web.vhost.sock\n\nQEMU")) << text;
  EXPECT_NE(text.find(qemu_snippet("/run/holdfast/vms.web.vhost.sock", "web") + "\nlibvirt"),
            std::string::npos)
      << text;
  EXPECT_TRUE(text.ends_with(libvirt_snippet("/run/holdfast/vms.web.vhost.sock"))) << text;
}

}  // namespace
}  // namespace holdfast
