# Makes a bare repository at $2: two commits, the last with the subject $1; a hook; a submodule.
set -eu
export HOME=/nonexistent GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@example.org GIT_AUTHOR_DATE='2026-01-01T00:00:00Z'
export GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@example.org GIT_COMMITTER_DATE='2026-01-01T00:00:00Z'
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
git init --quiet --initial-branch=main "$made"
cd "$made"
echo hello > hello.txt
git add hello.txt
git commit --quiet -m 'Begin'
printf '[submodule "sub"]\n\tpath = sub\n\turl = https://other.example.org/owner/sub.git\n' > .gitmodules
git update-index --add --cacheinfo 160000,1234567890123456789012345678901234567890,sub
git add .gitmodules
git commit --quiet -m "$1"
git clone --quiet --bare "$made" "$2"
