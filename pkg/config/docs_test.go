package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/tests/golden"
)

const docsHead = `# Configuration

<!-- Written by go test ./pkg/config -update out of the table in pkg/config; change it there. -->

Every setting of ` + "`knarr server` and `knarr agent`" + ` is a flag, and every flag is a key of the
configuration file under the same name. Which of them an agent takes is in
` + "`knarr agent --help`" + `; it accepts those that all members of a cluster have in common as well, and compares them with
what the cluster has (agents.md). k3s's users find k3s's names here, with KNARR_ for K3S_ and
/etc/knarr for /etc/rancher/k3s.

## Where a setting comes from

The first of these that has it:

1. the command line: ` + "`--data-dir /data` or `--data-dir=/data`" + `; a switch alone means true;
2. the environment, for flags that name a variable below; an empty variable counts as not set;
3. the configuration files;
4. the default.

A flag with an empty value (` + "`--node-name=`" + `) means the default, whatever the files say. Relative paths
are taken from the working directory.

## The configuration files

` + "`/etc/knarr/config.yaml`" + ` is read first, then ` + "`/etc/knarr/config.yaml.d/*.yaml`" + ` in the order of the
alphabet. ` + "`--config FILE`" + ` moves both, to FILE and FILE.d. Keys are the names of flags, or their aliases,
without dashes; switches are true or false; a flag that can be repeated takes a list or one value.

` + "```yaml" + `
# /etc/knarr/config.yaml
write-kubeconfig-mode: 640
tls-san:
  - cluster.example.com
kubelet-arg:
  - max-pods=200
` + "```" + `

- The last value of a key wins: a file later in the order replaces what an earlier one says, lists as a
  whole.
- ` + "`key+:`" + ` appends to what the files before it gave. Once a key was appended to, later files have to write
  ` + "`key+:`" + ` as well, or they replace all of it. On a flag that takes one value, the appended one wins.
- A flag on the command line replaces the whole list of the files.
- A key may stand once in a file. A key that is no flag is an error, as is a value of the wrong kind.

` + "```yaml" + `
# /etc/knarr/config.yaml.d/10-more.yaml
tls-san+:
  - 203.0.113.10
` + "```" + `

## When something is wrong

knarr looks at everything before it does anything, reports all problems at once, each with its flag,
variable or file and line, the value and what is allowed, and exits with code 2. Nothing was changed then.

    bad configuration, 2 problems:
      - /etc/knarr/config.yaml:3: flannel-backend "hostgw": not supported, did you mean host-gw; want vxlan, host-gw or none
      - --data-dr: unknown flag, did you mean --data-dir?

## Arguments for the components

` + "`--kube-apiserver-arg`, `--kube-controller-manager-arg`, `--kube-scheduler-arg`,\n`--kubelet-arg` and `--kube-proxy-arg`" + ` pass one flag each to the
component, as ` + "`KEY=VALUE` or `KEY`" + `, with or without dashes, in the order given and after knarr's own.
Commas belong to the value.
`

// TestDocumentation writes docs/configuration.md, so that it has every flag.
func TestDocumentation(t *testing.T) {
	var b strings.Builder
	b.WriteString(docsHead)
	category := ""
	for _, f := range Table() {
		if f.Hidden {
			continue
		}
		if f.Category != category {
			category = f.Category
			fmt.Fprintf(&b, "\n## %s\n\n| flag | what it does | default | allowed | variable |\n|---|---|---|---|---|\n", category)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", docNames(&f), docUsage(&f), docDefault(&f), cell(f.Wants()), code(f.Env))
	}
	golden.Check(t, "../../docs/configuration.md", b.String())
}

func docNames(f *Flag) string {
	var names []string
	for _, n := range f.Names() {
		names = append(names, code(dashed(n)))
	}
	text := strings.Join(names, ", ")
	if f.Repeatable() {
		text += " (repeatable)"
	}
	return text + docRole(f)
}

// docRole marks what only an agent takes; what it shares with a server is in `knarr agent --help`.
func docRole(f *Flag) string {
	if f.Roles == RoleAgent {
		return " (agent)"
	}
	return ""
}

func docUsage(f *Flag) string {
	return cell(strings.ReplaceAll(f.Usage, "`", ""))
}

func docDefault(f *Flag) string {
	if f.DefaultText != "" {
		return cell(f.DefaultText)
	}
	return code(f.Default)
}

// code quotes a text, and leaves nothing of none.
func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
