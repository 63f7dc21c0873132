# SPDX-License-Identifier: Apache-2.0
"""The page of a video that grows: index.html, and progress.js that it reads again.

A page opened from a file path may not fetch files, but it may load scripts; so what is
finished is told to it as a script.
"""

from __future__ import annotations

from collections.abc import Mapping
import html
import json
import pathlib

from lamd_jax import limits
from lamd_jax import media

_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse}td{padding:.25rem .75rem;border-bottom:1px solid #8884}
#screen{display:grid}video{grid-area:1/1;width:100%;max-height:75vh;
image-rendering:pixelated;background:#8882}
video[hidden]{display:block;visibility:hidden}
progress,img{width:100%}
"""

# Two players: one plays a segment while the other loads the next.
_SCRIPT = """
const POLL_MS=2000;
const by=id=>document.getElementById(id);
let now=by('a'),then=by('b'),index=-1,waiting=true,told={segments:0,video:''};
const name=i=>'segments/'+String(i).padStart(5,'0')+'.mp4';
const start=v=>{const p=v.play();if(p)p.catch(()=>{})};
function load(v,i){
  if(i<told.segments&&v.dataset.index!==String(i)){
    v.dataset.index=String(i);v.src=name(i);v.load()}}
function advance(){
  if(told.video)return;
  if(index+1>=told.segments){waiting=true;return}
  waiting=false;index+=1;load(then,index);
  [now,then]=[then,now];now.hidden=false;then.hidden=true;then.pause();start(now);
  load(then,index+1)}
function again(){if(told.video){now.currentTime=0;start(now)}else{index=-1;advance()}}
function finished(){
  then.remove();now.hidden=false;now.controls=true;now.loop=true;
  now.src=told.video;start(now)}
function show(state){
  const before=told;told=state;
  by('count').textContent=state.frames+' of '+state.asked+' frames are finished';
  by('bar').max=state.asked;by('bar').value=state.frames;
  by('sheet').src='sheet.png?'+state.frames;
  if(state.video){if(!before.video)finished();return}
  if(waiting)advance();else load(then,index+1)}
function poll(){
  if(told.video)return;
  const script=document.createElement('script');
  script.src='progress.js?'+Date.now();
  script.onload=script.onerror=()=>{script.remove();setTimeout(poll,POLL_MS)};
  document.head.append(script)}
for(const v of [now,then])v.onended=()=>{if(v===now)advance()};
by('again').onclick=again;
by('sheet').onerror=()=>by('sheet').removeAttribute('src');
poll();
"""


def write(folder: pathlib.Path, settings: Mapping[str, object]) -> None:
  """Writes index.html, once: all that changes it learns from progress.js."""
  facts = "".join(
    f"<tr><td>{html.escape(key)}</td><td>{html.escape(str(value))}</td></tr>"
    for key, value in limits.leaves(settings)
  )
  page = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>A video as it grows'
    "</title><meta name=viewport content='width=device-width'>"
    f"<style>{_STYLE}</style><h1>A video as it grows</h1>"
    "<div id=screen><video id=a muted playsinline></video>"
    "<video id=b muted playsinline hidden></video></div>"
    "<p><progress id=bar value=0 aria-label='frames finished'></progress>"
    "<span id=count>No frame is finished yet.</span>"
    " <button id=again>play from the start</button></p><p>This page follows the run: it"
    " plays what is finished and need not be loaded again.</p><noscript><p>Without"
    " scripts it cannot: the finished parts are in <a href=segments/>segments</a>, the whole"
    " video will be <a href=video.mp4>video.mp4</a>.</p></noscript>"
    "<h2>The video so far, in frames at equal distances</h2><img id=sheet"
    " alt='the video so far'>"
    f"<h2>Settings</h2><table>{facts}</table><script>{_SCRIPT}</script></html>"
  )
  media.atomically(folder / "index.html", lambda path: path.write_text(page, "utf-8"))


def tell(
  folder: pathlib.Path, *, frames: int, asked: int, segments: int, video: str
) -> None:
  """Writes progress.js.

  Args:
    folder: of the stream.
    frames: finished.
    asked: of the whole video.
    segments: finished.
    video: the joined file's name, "" while there is none.
  """
  state = {"frames": frames, "asked": asked, "segments": segments, "video": video}
  text = f"show({json.dumps(state)});\n"
  media.write_text(folder / "progress.js", text)
