package addon

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"regexp"
	"slices"
	"strings"
)

// source is a manifest under the name of its Addon.
type source struct {
	name string
	path string // below the directory, slash-separated
	// patch is the overlay beside it, "" for none.
	patch string
	// skip is set while there is a .skip file beside it.
	skip bool
	// conflict says why the file counts for nothing.
	conflict string
	// stamps are those of the file and of the patch.
	stamps [2]stamp
}

// suffixes are the endings of manifests.
var suffixes = [...]string{".yaml", ".yml", ".json"}

// base cuts the ending of a manifest off; ok is false for other files, as those of editors are: hidden, or with another
// ending.
func base(file string) (stem string, ok bool) {
	name := path.Base(file)
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "#") {
		return "", false
	}
	for _, s := range suffixes {
		if stem, ok := strings.CutSuffix(file, s); ok && path.Base(stem) != "" {
			return stem, true
		}
	}
	return "", false
}

// patchSuffix, before the ending, makes a file an overlay; skipSuffix, after it, has a manifest left alone.
const (
	patchSuffix = ".patch"
	skipSuffix  = ".skip"
)

var notInLabels = regexp.MustCompile(`[^a-z0-9-]+`)

// maxName is the length of a DNS label, and of a label's value.
const maxName = 63

// addonName makes the name of an Addon of a file's: the file's name without its ending, which k3s has, made a DNS label
// where it is none.
func addonName(file string) string {
	stem, _ := base(file)
	stem = path.Base(stem)
	name := strings.Trim(notInLabels.ReplaceAllString(strings.ToLower(stem), "-"), "-")
	if name == "" || len(name) > maxName {
		name = strings.Trim(name[:min(len(name), maxName-hashLength-1)]+"-"+hash(stem), "-")
	}
	return name
}

const hashLength = 8

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])[:hashLength]
}

// assign gives the files below the directory their names. Of several files with one name the one counts that has it
// already, by incumbent, then a packaged one, then the first by path; the others get a name to be reported under.
func assign(files map[string]stamp, incumbent func(name string) string, packaged func(path string) bool) map[string]source {
	patches, skips := overlays(files), make(map[string]bool)
	byName := make(map[string][]string)
	for file := range files {
		if manifest, ok := strings.CutSuffix(file, skipSuffix); ok {
			skips[manifest] = true
		} else if stem, ok := base(file); ok && !strings.HasSuffix(stem, patchSuffix) {
			byName[addonName(file)] = append(byName[addonName(file)], file)
		}
	}
	sources := make(map[string]source)
	for name, paths := range byName {
		slices.Sort(paths)
		winner := paths[0]
		if i := slices.IndexFunc(paths, packaged); i >= 0 {
			winner = paths[i]
		}
		if holder := incumbent(name); slices.Contains(paths, holder) {
			winner = holder
		}
		for _, file := range paths {
			stem, _ := base(file)
			s := source{name: name, path: file, patch: patches[stem], skip: skips[file]}
			if file != winner {
				s.name = rename(name, file)
				s.conflict = "the name " + name + " is taken by " + winner + ": rename this file"
			}
			s.stamps = [2]stamp{files[s.path], files[s.patch]}
			sources[s.name] = s
		}
	}
	orphans(patches, byName, files, packaged, sources)
	return sources
}

// rename is the name under which a file without a name of its own is reported.
func rename(name, file string) string {
	return strings.Trim(name[:min(len(name), maxName-hashLength-1)], "-") + "-" + hash(file)
}

// overlays finds the patches by what they patch, without the ending.
func overlays(files map[string]stamp) map[string]string {
	patches := make(map[string]string)
	for file := range files {
		stem, ok := base(file)
		if target, patch := strings.CutSuffix(stem, patchSuffix); ok && patch {
			patches[target] = max(patches[target], file) // of several with other endings, one
		}
	}
	return patches
}

// orphans adds the patches that nothing is beside, as conflicts. What a packaged component's patch is for may come back.
func orphans(patches map[string]string, byName map[string][]string, files map[string]stamp, packaged func(string) bool, sources map[string]source) {
	for stem, patch := range patches {
		there := slices.ContainsFunc(suffixes[:], func(s string) bool {
			_, ok := files[stem+s]
			return ok || packaged(stem+s)
		})
		if there {
			continue
		}
		s := source{name: addonName(patch), path: patch, stamps: [2]stamp{files[patch]},
			conflict: "there is no " + path.Base(stem) + suffixes[0] + " beside it to patch"}
		if _, taken := byName[s.name]; taken {
			s.name = rename(s.name, patch)
		}
		sources[s.name] = s
	}
}
